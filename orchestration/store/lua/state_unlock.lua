-- End an edit without writing. Args: run, lock. Answers: unlocked, even if another writer has the lock by now.

lock.drop()
return { 'unlocked' }
