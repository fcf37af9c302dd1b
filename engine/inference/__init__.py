"""Drawing with what was learned."""
