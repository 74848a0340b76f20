"""Speed and memory of our models beside others', measured in turns."""
