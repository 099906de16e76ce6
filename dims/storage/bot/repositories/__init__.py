"""What a bot stores, one module per table: rows as frozen dataclasses, and the few ways to them."""
