"""What is known of the validator API: which requests are ours, which are passed on, whose key share is whose. Sans-IO."""
