"""Numbers and sheets that say how well a concept was learned."""
