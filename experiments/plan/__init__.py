"""What a run will cost, before it costs anything: memory, disk, hours, tokens and money."""
