"""What processes say to one another, typed once. Pure; how it is written is `dims.ipc.wire`.

Each sentence is one frozen type that knows its `kind`. Whoever speaks makes one, and the link at
the other end makes the same one of what arrives: what is malformed goes no further.

| module | who speaks |
|---|---|
| `failures` | anybody who says why a process left, and how |
| `states` | anybody who names a state, of a unit or a fleet |
| `fleet` | workers and services with the brain |
| `services` | what single services say of themselves, and are told |
| `forks` | the zygote with the brain |
| `keeping` | the keeper with the brain |
| `terms` | what a worker is told when it is welcomed |
| `asked` | operators to the brain |
| `operator` | the brain to operators |
| `sharing` | the zygote of its memory |

`VERSION` grows when a sentence changes so that an older reader would take it wrongly. A new field
with a default, or a new kind, is no such change: fields that are not known are passed over, and a
kind that is not known is answered so.
"""

VERSION = 1
