-- End an edit without writing. Args: run, lock. Answers: unlocked, also when another writer has the lock by now.

lock.drop()
return { 'unlocked' }
