"""Published checkpoints: catalogue, readers, porting rules, download and cache."""
