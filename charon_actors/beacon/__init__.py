"""What is known of beacon nodes' answers: how they are read, how long they may be kept, which of them to believe. Sans-IO."""
