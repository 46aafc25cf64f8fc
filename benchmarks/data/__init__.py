"""What is fed in: synthetic clusters, their documents and events, policy templates; pure."""
