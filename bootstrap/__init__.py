"""Entry nodes: how an operator runs the well-known nodes through which peers find the overlay."""
