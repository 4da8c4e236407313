"""The researcher's instrument: experiments with one-time addresses, and what judges and reports them."""
