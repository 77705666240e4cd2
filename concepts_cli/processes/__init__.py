"""Working in several processes: who is who, starting them, stopping them. May import errors and output."""
