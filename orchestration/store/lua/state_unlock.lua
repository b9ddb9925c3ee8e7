-- End an edit without writing. Args: run, lock. Answers: unlocked, also when the lock is somebody else's by now.
--!include lock

drop_lock()
return { 'unlocked' }
