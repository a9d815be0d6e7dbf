"""The plant's own authority: certificates, policy, audit and the API."""
