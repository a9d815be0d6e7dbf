"""The program that listens: admits links and forwards sealed frames between them."""
