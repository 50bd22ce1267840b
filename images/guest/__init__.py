"""What an image starts with. These files are copied into the image; nothing else imports them."""
