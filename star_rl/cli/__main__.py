from star_rl.cli import main

raise SystemExit(main())
