"""Pure accounting: arrays in, arrays out; plant model, kernels, factors. No I/O of services."""
