"""What units there are and how each is launched, from the configuration."""
