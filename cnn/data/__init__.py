"""Image input: data sets, files, preprocessing and augmentation."""
