"""What is measured: one class per metric, the arithmetic, the tables. May import pictures, training and below."""
