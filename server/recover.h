/*
 * kluisd recover: a cluster whose majority is lost for good goes on with what one survivor has.
 */
#ifndef KL_RECOVER_H
#define KL_RECOVER_H

/* argv[0] is "recover". Returns the exit code of the process (server/exit_codes.h). Blocks. */
int kl_recover_main(int argc, char **argv);

#endif
