"""The offline file: all wheels of an agent in one archive, for gateways without internet."""
