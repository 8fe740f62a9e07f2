/*
 * What the LevelDB store does around LevelDB: messages, the ballast file, the directory.
 */
#ifndef KL_LEVELDB_FILES_H
#define KL_LEVELDB_FILES_H

#include "server/store/kv.h"

/* What a message of LevelDB means: KL_NO_SPACE, KL_CORRUPT or KL_IO. */
enum kl_status kl_leveldb_status(const char *err);
/* A line for people about a failed open; why may be NULL, err_len 0. */
void kl_leveldb_explain(enum kl_status status, const char *dir, const char *why, char *err,
                        size_t err_len);
/* KL_CORRUPT when the directory has data of LevelDB but not the file that leads to it: LevelDB
 * would take it for empty and begin anew. */
KL_MUST_USE enum kl_status kl_leveldb_check_dir(const char *dir);

/* true: the ballast is there and there is room beyond it. */
bool kl_leveldb_ballast_make(const char *dir);
void kl_leveldb_ballast_drop(const char *dir);

/* The mark of the last flush that is known to be durable; 0 when there was none. */
KL_MUST_USE enum kl_status kl_leveldb_mark_read(const char *dir, uint64_t *mark);
/* Notes one, durably and all or nothing. false: it could not, the old one stands. */
bool kl_leveldb_mark_write(const char *dir, uint64_t mark);
void kl_leveldb_mark_drop(const char *dir);

/* Removes an emptied directory; KL_OK when there is none, KL_IO when something is left in it. */
KL_MUST_USE enum kl_status kl_leveldb_remove_dir(const char *dir);

#endif
