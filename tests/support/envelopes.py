"""Strategies for messages of any content that JSON can hold."""

from __future__ import annotations

from hypothesis import strategies as st

from dims.ipc.wire.envelope import Address, Envelope, MessageId, Priority

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
envelopes = st.builds(
    Envelope,
    names.map(MessageId),
    names,
    names.map(Address),
    names.map(Address),
    st.sampled_from(Priority),
    st.none() | names.map(MessageId),
    st.dictionaries(texts, values, max_size=3),
)
