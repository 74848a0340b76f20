"""Arguments, builders of graphs, families and all models by name."""
