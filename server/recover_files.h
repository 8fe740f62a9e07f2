/*
 * Files of kluisd recover: reports of other nodes, and copies of logs. All block; err gets a line for
 * people.
 */
#ifndef KL_RECOVER_FILES_H
#define KL_RECOVER_FILES_H

#include "server/recover_plan.h"

/* KL_IO, KL_TOO_LARGE, and what kl_recover_report_parse() says. */
KL_MUST_USE enum kl_status kl_recover_report_read(const char *path, struct kl_recover_report *out,
                                                  char *err, size_t err_len);
/* A new directory, mode 0700. KL_IO, KL_ALREADY_EXISTS. */
KL_MUST_USE enum kl_status kl_recover_dir_make(const char *path, char *err, size_t err_len);
/* Copies the plain files of a directory into a new one, and syncs them. KL_IO, KL_NO_SPACE,
 * KL_ALREADY_EXISTS. */
KL_MUST_USE enum kl_status kl_recover_dir_copy(const char *from, const char *to, char *err,
                                               size_t err_len);

#endif
