"""A trained model without its image, or its texts: does it use them?"""
