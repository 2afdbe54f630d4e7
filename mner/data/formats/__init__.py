"""Files of posts, texts, images, features and predictions, one file a format."""
