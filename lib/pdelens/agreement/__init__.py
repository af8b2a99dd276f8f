"""How alike two flows are: measures, nulls, matched heads, and the report of all three."""
