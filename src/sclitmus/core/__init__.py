"""Values and contracts: what flows between the parts. numpy and scipy only."""
