/*
 * Exit codes of kluisd, as kluisd(8) documents them.
 */
#ifndef KL_EXIT_CODES_H
#define KL_EXIT_CODES_H

enum kl_exit {
    KL_EXIT_OK = 0,
    KL_EXIT_INTERNAL = 1, /* out of memory, or a fault of kluisd */
    KL_EXIT_USAGE = 2,    /* wrong command line */
    KL_EXIT_CONFIG = 3,   /* the configuration, or a file it names, is wrong */
    KL_EXIT_DATA_DIR = 4, /* locked, not initialised, or of another node or cluster */
    KL_EXIT_CORRUPT = 5,  /* store or log is damaged: the message says what to do */
    KL_EXIT_NETWORK = 6,  /* an address cannot be listened on */
    KL_EXIT_FATAL = 7,    /* the disk failed, or the state machine could not go on */
    KL_EXIT_DUPLICATE =
        8, /* another process or data directory uses this node id; or it was removed */
    KL_EXIT_REFUSED = 9, /* kluisd recover: not here, or not at all; nothing has been changed */
};

#endif
