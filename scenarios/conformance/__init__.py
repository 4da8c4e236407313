"""The conformance suite as a command: every rule, its tests, its verdict, and the captures that show it."""
