"""The built-in data set: texts and drawn scenes; the image decides what the text cannot."""
