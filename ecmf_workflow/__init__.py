"""What runs the notebooks: the command `ecmf`, batch runs, whole profiles, and their pages."""
