"""Files in and out of the projects folder."""
