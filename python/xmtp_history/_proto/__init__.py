"""Code generated from ``rust/wire/*.proto`` by ``make proto``."""
