-- End an edit without writing. Args: run, lock. Answers: unlocked, also when the lock is somebody else's by now.
--!keys lock
--!include record writers

drop_lock()
return { 'unlocked' }
