"""The backends that come with the library, one file each; reached through the entry-point group `cnn.backends`."""
