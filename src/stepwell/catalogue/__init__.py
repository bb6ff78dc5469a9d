"""What hardware and models are: data files in which every figure carries its mark and its source."""
