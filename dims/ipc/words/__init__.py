"""What processes say to one another, typed once. How it is written is `dims.ipc.wire`."""
