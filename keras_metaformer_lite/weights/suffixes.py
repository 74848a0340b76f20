"""The endings of files that weights are written to."""

#: Files with a state dict, whose keys are in a naming.
STATE_DICT_SUFFIXES = (".safetensors", ".npz")
#: Everything that `save_weights_file` writes.
SUFFIXES = (*STATE_DICT_SUFFIXES, ".weights.h5")
