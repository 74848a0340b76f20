"""`.tflite` files: checking, reading and running them."""
