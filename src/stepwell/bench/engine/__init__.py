"""llama.cpp and the loop around it: exact after every move, as quick as the bare library."""
