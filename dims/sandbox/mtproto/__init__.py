"""MTProto from bytes to requests: transport, keys, encryption, sessions. Knows no accounts."""
