"""The command `unimux`: floors above it add sub-commands through the entry-point group `unimux.commands`."""
