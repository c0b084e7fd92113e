"""What happened in a run beyond its resolve rate: each module here is one measure."""
