"""What runs scenarios, whatever they are about."""
