"""Networks, architectures and models, the files they are kept in, and the published architectures."""
