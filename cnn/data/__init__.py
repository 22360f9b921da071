"""Images in: data sets, files, preprocessing and augmentation."""
