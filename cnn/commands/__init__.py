"""The subcommands of `cnn`, one file each: `add_arguments(parser)` and `run(options)`."""
