"""TCP as RFC 9293 describes it, split by concern; nothing here knows of one-time addresses but PCB keys, LISTEN_o and release."""
