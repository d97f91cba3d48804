"""What several test folders share: real services, independent clients, small builders."""
